"""A real S3 server for tests: OpenStack Swift with its S3 API, all in one process.

`python -m tests.s3_server FOLDER ADDRESS` listens on a port of ADDRESS, which it prints once it answers. It keeps
everything in FOLDER, which must be on a disk with extended attributes. It checks signatures, clocks, regions and the
hashes of bodies as Amazon's does.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()  # before anything else opens a socket

import sys  # noqa: E402
from array import array  # noqa: E402
from pathlib import Path  # noqa: E402

import eventlet.wsgi  # noqa: E402
from swift.common.ring.ring import RingData  # noqa: E402
from swift.common.utils import set_swift_dir  # noqa: E402
from swift.common.wsgi import loadapp  # noqa: E402

from tests.s3 import ACCESS_KEY, REGION, SECRET_KEY, STRANGER  # noqa: E402

PIPELINE = "catch_errors gatekeeper listing_formats s3api tempauth slo copy proxy-server"
PROXY = f"""
[DEFAULT]
swift_dir = {{folder}}
[pipeline:main]
pipeline = {PIPELINE}
[filter:s3api]
use = egg:swift#s3api
location = {REGION}
s3_acl = false
dns_compliant_bucket_names = true
check_bucket_owner = true
auth_pipeline_check = false
force_swift_request_proxy_log = false
min_segment_size = 1048576
[filter:tempauth]
use = egg:swift#tempauth
user_{ACCESS_KEY.replace(":", "_")} = {SECRET_KEY} .admin
user_{STRANGER.replace(":", "_")} = {SECRET_KEY}
allow_account_management = false
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
sorting_method = shuffle
"""
PLAIN_FILTERS = ("catch_errors", "gatekeeper", "listing_formats", "slo", "copy")
STORAGE = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
fallocate_reserve = 0
disable_fallocate = true
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
"""


def serve(folder: Path, address: str) -> None:
    """Serve until killed."""
    (folder / "devices" / "disk").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = test\n[swift-constraints]\n")
    set_swift_dir(str(folder))
    listeners = {}
    for kind in ("account", "container", "object"):
        listeners[kind] = eventlet.listen(("127.0.0.1", 0))
        save_ring(folder, kind, listeners[kind].getsockname()[1])
        (folder / f"{kind}.conf").write_text(STORAGE.format(folder=folder, kind=kind))
    filters = "".join(f"[filter:{name}]\nuse = egg:swift#{name}\n" for name in PLAIN_FILTERS)
    (folder / "proxy.conf").write_text(PROXY.format(folder=folder) + filters)
    for kind, listener in listeners.items():
        app = loadapp(str(folder / f"{kind}.conf"))
        eventlet.spawn(eventlet.wsgi.server, listener, app, log_output=False)
    front = eventlet.listen((address, 0))
    proxy = loadapp(str(folder / "proxy.conf"))
    print(front.getsockname()[1], flush=True)
    eventlet.wsgi.server(front, proxy, log_output=False)


def save_ring(folder: Path, kind: str, port: int) -> None:
    """Everything of a kind lies on one disk, once."""
    device = {
        "id": 0, "region": 1, "zone": 1, "weight": 1.0, "ip": "127.0.0.1", "port": port,
        "replication_ip": "127.0.0.1", "replication_port": port, "device": "disk", "meta": "",
    }  # fmt: skip
    RingData([array("H", [0, 0])], [device], 31).save(str(folder / f"{kind}.ring.gz"))


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
