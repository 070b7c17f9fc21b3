#!/bin/sh
# Runs the command given, told of the Redis whose password is in a file: so no password is in a container's settings.
set -eu
if [ -n "${DAIN_REDIS_PASSWORD_FILE:-}" ]; then
  DAIN_REDIS_URL="redis://:$(cat "$DAIN_REDIS_PASSWORD_FILE")@${DAIN_REDIS_ADDRESS:-redis:6379}/0"
  export DAIN_REDIS_URL
fi
exec "$@"
