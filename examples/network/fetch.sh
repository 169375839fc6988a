# Asks for two pages, with what is there.
fetch() {
  if command -v curl >/dev/null; then
    curl -fsS "$1"
  else
    wget -q -O - "$1"
  fi
}
fetch http://example.com/
fetch http://example.com/private || echo refused
