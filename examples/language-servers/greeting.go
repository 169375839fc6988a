// Package main greets.
package main

import "fmt"

func greet(name string) string { return "good morning, " + name }

func main() { fmt.Println(greet("everybody")) }
