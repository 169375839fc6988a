package main

import "github.com/drawbridge-mcp/drawbridge/runtime/native/shim"

func shimMain() int { return shim.Main() }
