#!/bin/sh
# Runs the given command with settings that follow from others.
set -eu
# DAIN_REDIS_URL is made from a password file, so that no container's settings show a password. At the very first start
# the file is still being made, so this waits for it.
if [ -n "${DAIN_REDIS_PASSWORD_FILE:-}" ]; then
  [ -s "$DAIN_REDIS_PASSWORD_FILE" ] ||
    echo "Waiting for $DAIN_REDIS_PASSWORD_FILE, which the container prepare makes beside Redis: docker compose up -d" >&2
  until [ -s "$DAIN_REDIS_PASSWORD_FILE" ]; do sleep 0.2; done
  DAIN_REDIS_URL="redis://:$(cat "$DAIN_REDIS_PASSWORD_FILE")@${DAIN_REDIS_ADDRESS:-redis:6379}/0"
  export DAIN_REDIS_URL
fi
# Published to this machine alone, and with no proxy in front, the API needs no keys until there are some.
if [ -z "${DAIN_DOMAIN:-}" ]; then
  case "${DAIN_PUBLISH:-}" in
    127.* | localhost:* | "[::1]:"*) export DAIN_OPEN="${DAIN_OPEN:-true}" ;;
  esac
fi
exec "$@"
