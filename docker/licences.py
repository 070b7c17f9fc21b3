"""Prints every installed package with its licence, as Markdown. It runs in the image of the GPU worker."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

LONGEST = 100  # characters; some packages give the whole text where its name belongs

HEAD = """# Licences of what the images carry

`make licences` writes this page from what the packages in the GPU worker's image say about themselves. The other images
carry fewer of them: the CPU worker has nothing from NVIDIA, the service has neither PyTorch nor NumPy nor an ffmpeg
program. The project itself is under the MIT licence. The base image (Python, Debian or Ubuntu, CUDA in the GPU worker)
tells its own licences in `/usr/share/doc/*/copyright`.

Two packages carry programs of others. `imageio-ffmpeg` has an FFmpeg program built with x264 (GPL 3); it runs as a
process of its own, and is in the workers' images only. `av` has FFmpeg's libraries, x264 and x265 among them (GPL).
Whoever passes the images on passes these on too, and owes their sources.

NVIDIA's packages and CUDA in the base image are under NVIDIA's own terms, which allow redistribution as part of an
application.

| package | version | licence |
| --- | --- | --- |"""


def licence(package: Distribution) -> str:
    """The licence of a package: its expression, else its classifiers, else the text in their place."""
    about = package.metadata
    classifiers = [
        line.rpartition(" :: ")[2]
        for line in about.get_all("Classifier") or []
        if line.startswith("License ::") and not line.endswith("OSI Approved")
    ]
    said = about.get("License-Expression") or ", ".join(classifiers) or about.get("License") or "not said"
    first, *_ = said.strip().splitlines()
    return first[:LONGEST]


def main() -> None:
    print(HEAD)
    for package in sorted(distributions(), key=lambda package: package.metadata["Name"].lower()):
        print(f"| {package.metadata['Name']} | {package.version} | {licence(package)} |")


if __name__ == "__main__":
    main()
