# Greets whom its first argument names.
echo "hello, ${1:-world}"
