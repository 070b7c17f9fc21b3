#!/bin/sh
# Prints Alertmanager's configuration: whom to tell is in variables, which Alertmanager itself does not read.
#
#   ALERT_WEBHOOK_URL     is sent each group of alerts as JSON
#   ALERT_MAIL_TO         gets them by mail, through the server ALERT_SMTP (host:port), from ALERT_MAIL_FROM
#   ALERT_SMTP_USER, ALERT_SMTP_PASSWORD     where that server asks for them
#   ALERT_SMTP_REQUIRE_TLS=false             for a server that has no TLS, in a network of yours
#
# With none of them nobody is told; alerts are then seen in Alertmanager and in Grafana alone.
set -eu

quoted() { printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"; }

cat <<'CONFIGURATION'
route:
  receiver: operator
  group_by: [alertname]
  group_wait: 30s
  group_interval: 5m
  repeat_interval: 12h

inhibit_rules:
  - source_matchers: [alertname = DainDown] # what nobody can measure then is no news
    target_matchers: [severity = warning]

receivers:
  - name: operator
CONFIGURATION

if [ -n "${ALERT_WEBHOOK_URL:-}" ]; then
  cat <<CONFIGURATION
    webhook_configs:
      - url: $(quoted "$ALERT_WEBHOOK_URL")
        send_resolved: true
CONFIGURATION
fi

if [ -n "${ALERT_MAIL_TO:-}" ]; then
  : "${ALERT_SMTP:?the mail server, as host:port}"
  cat <<CONFIGURATION
    email_configs:
      - to: $(quoted "$ALERT_MAIL_TO")
        from: $(quoted "${ALERT_MAIL_FROM:-$ALERT_MAIL_TO}")
        smarthost: $(quoted "$ALERT_SMTP")
        require_tls: ${ALERT_SMTP_REQUIRE_TLS:-true}
        send_resolved: true
CONFIGURATION
  if [ -n "${ALERT_SMTP_USER:-}" ]; then
    cat <<CONFIGURATION
        auth_username: $(quoted "$ALERT_SMTP_USER")
        auth_password: $(quoted "${ALERT_SMTP_PASSWORD:-}")
CONFIGURATION
  fi
fi
