"""Prints what is installed here with its licence, as Markdown: for the image of the GPU worker."""

from __future__ import annotations

from importlib.metadata import Distribution, distributions

LONGEST = 100  # characters; some packages give the whole text where its name belongs

HEAD = """# Licences of what the images carry

Written by `make licences` from what the packages in the GPU worker's image say of themselves; the other images carry
fewer of them (the CPU worker nothing from NVIDIA, the service no PyTorch). The project itself is MIT. What the base
image brings (Python, Debian or Ubuntu, in the GPU worker CUDA) is told by its own `/usr/share/doc/*/copyright`.

Two packages carry programs of others. `imageio-ffmpeg` has an FFmpeg program built with x264: GPL 3; it is run as a
process of its own, and is in the workers' images only. `av` has FFmpeg's libraries, with x264 and x265 among them: GPL.
Whoever passes the images on passes these on too, and owes their sources.

NVIDIA's packages and CUDA in the base image are under NVIDIA's own terms, which allow redistribution as part of an
application.

| package | version | licence |
| --- | --- | --- |"""


def licence(package: Distribution) -> str:
    """The licence's expression, else its classifiers, else what is written in its place."""
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
