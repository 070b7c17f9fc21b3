#!/bin/sh
# Removes from the PyTorch of /opt/dain what only building needs: headers and test programs.
set -eu
cd /opt/dain/lib/python3.*/site-packages/torch
rm -rf include share test
find bin -type f ! -name torch_shm_manager -delete # that one PyTorch looks for when it is imported
