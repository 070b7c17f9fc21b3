#!/bin/sh
# Runs the given command with DAIN_REDIS_URL made from a password file, so that no container's settings show a password.
# At the very first start the file is still being made, so this waits for it.
set -eu
if [ -n "${DAIN_REDIS_PASSWORD_FILE:-}" ]; then
  until [ -s "$DAIN_REDIS_PASSWORD_FILE" ]; do sleep 0.2; done
  DAIN_REDIS_URL="redis://:$(cat "$DAIN_REDIS_PASSWORD_FILE")@${DAIN_REDIS_ADDRESS:-redis:6379}/0"
  export DAIN_REDIS_URL
fi
exec "$@"
