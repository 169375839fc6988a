# Serves this directory with what is there.
if command -v python3 >/dev/null; then
  exec python3 -m http.server 8000
fi
exec busybox httpd -f -p 8000
