#!/bin/sh
# Runs the command given, told of the Redis whose password is in a file: so no password is in a container's settings.
# At the very first start the file is still being made.
set -eu
if [ -n "${DAIN_REDIS_PASSWORD_FILE:-}" ]; then
  until [ -s "$DAIN_REDIS_PASSWORD_FILE" ]; do sleep 0.2; done
  DAIN_REDIS_URL="redis://:$(cat "$DAIN_REDIS_PASSWORD_FILE")@${DAIN_REDIS_ADDRESS:-redis:6379}/0"
  export DAIN_REDIS_URL
fi
exec "$@"
