# Asks both services, with what is there.
psql -At "$MOAT_POSTGRES_URL" -c "select 'connected to ' || current_database() || ' as ' || current_user"
if command -v redis-cli >/dev/null; then
  redis-cli -u "$MOAT_REDIS_URL" ping
else
  printf 'AUTH %s\r\nPING\r\nQUIT\r\n' "$MOAT_REDIS_PASSWORD" | nc "$MOAT_REDIS_HOST" "$MOAT_REDIS_PORT"
fi
