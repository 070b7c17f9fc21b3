#!/bin/sh
# Removes headers and test programs from the PyTorch of /opt/dain: only building needs them.
set -eu
cd /opt/dain/lib/python3.*/site-packages/torch
rm -rf include share test
find bin -type f ! -name torch_shm_manager -delete # importing PyTorch looks for this one
