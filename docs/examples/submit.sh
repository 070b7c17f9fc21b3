#!/bin/sh
# Makes a video smoother with curl alone: sh submit.sh IN.mp4 OUT.mp4
# DAIN_URL is the service; DAIN_TOKEN the token of your key, where it has keys.
set -eu
url=${DAIN_URL:-http://127.0.0.1:8000}

call() {
  curl -sS --fail-with-body --retry 9 ${DAIN_TOKEN:+--oauth2-bearer "$DAIN_TOKEN"} "$@"
}

# With the key a request that is sent again makes no second job.
job=$(call -H "Idempotency-Key: \"$(date +%s)-$$\"" -F "file=@$1" -F target_fps=60 "$url/jobs")
id=$(printf %s "$job" | sed 's/^{"id":"\([0-9a-f]*\)".*/\1/')

while :; do
  job=$(call "$url/jobs/$id?wait=25") # it answers when the state is another
  case $job in
    *'"status":"succeeded"'*) break ;;
    *'"status":"failed"'* | *'"status":"cancelled"'*)
      printf '%s\n' "$job" >&2
      exit 1
      ;;
  esac
done

call -o "$2" "$url/jobs/$id/result"
