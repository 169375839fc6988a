package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// series is what was measured, one value a repetition, in the unit of its row.
type series []float64

func (s *series) add(v float64)          { *s = append(*s, v) }
func (s *series) millis(d time.Duration) { s.add(float64(d) / float64(time.Millisecond)) }
func (s *series) timed(do func()) {
	begin := time.Now()
	do()
	s.millis(time.Since(begin))
}
func (s *series) micros(d time.Duration) { s.add(float64(d) / float64(time.Microsecond)) }
func (s series) percentile(p float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(p*float64(len(sorted))), len(sorted)-1)]
}

// summary is what is told of a series.
type summary struct {
	N   int     `json:"n"`
	Min float64 `json:"min"`
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

func (s series) summary() *summary {
	if len(s) == 0 {
		return nil
	}
	return &summary{len(s), slices.Min(s), s.percentile(0.50), s.percentile(0.95), s.percentile(0.99), slices.Max(s)}
}

// row is one line of the table.
type row struct {
	Measurement string   `json:"measurement"`
	Name        string   `json:"name"`
	Unit        string   `json:"unit"`
	Floor       *summary `json:"floor,omitempty"`
	Ours        *summary `json:"ours,omitempty"`
	Ratio       float64  `json:"ratio,omitempty"` // of the medians, ours to floor
	Target      string   `json:"target,omitempty"`
}

// results collects the rows of all measurements, in order.
type results struct {
	group   string   // the measurement under way
	Machine []string `json:"machine"`
	Rows    []row    `json:"rows"`
	Notes   []string `json:"notes,omitempty"`
}

// compare adds a row with a floor.
func (r *results) compare(name, unit string, floor, ours series, target string) {
	one := row{Measurement: r.group, Name: name, Unit: unit, Floor: floor.summary(), Ours: ours.summary(), Target: target}
	if one.Floor != nil && one.Ours != nil && one.Floor.P50 != 0 {
		one.Ratio = one.Ours.P50 / one.Floor.P50
	}
	r.Rows = append(r.Rows, one)
}

// report adds a row without a floor.
func (r *results) report(name, unit string, ours series, target string) {
	r.compare(name, unit, nil, ours, target)
}

// figure adds a row with a single value.
func (r *results) figure(name, unit string, value float64, target string) {
	r.report(name, unit, series{value}, target)
}

// note adds a remark below the table.
func (r *results) note(format string, args ...any) {
	r.Notes = append(r.Notes, r.group+": "+fmt.Sprintf(format, args...))
}

func (r *results) print(w io.Writer, asJSON bool) error {
	if asJSON {
		encoder := json.NewEncoder(w)
		encoder.SetIndent("", "  ")
		return encoder.Encode(r)
	}
	if err := r.printTable(w); err != nil {
		return err
	}
	for _, line := range slices.Concat(r.Notes, r.Machine) {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	return nil
}

// printTable aligns the names left and everything else right.
func (r *results) printTable(w io.Writer) error {
	table := [][]string{{"", "unit", "floor p50", "p95", "p99", "ours p50", "p95", "p99", "n", "ratio", "target"}}
	group := ""
	for _, one := range r.Rows {
		if one.Measurement != group {
			group = one.Measurement
			table = append(table, []string{group})
		}
		ratio, n := "", ""
		if one.Ratio != 0 {
			ratio = fmt.Sprintf("%.2f", one.Ratio)
		}
		if one.Ours != nil {
			n = strconv.Itoa(one.Ours.N)
		}
		table = append(table, slices.Concat([]string{"  " + one.Name, one.Unit}, one.Floor.cells(), one.Ours.cells(), []string{n, ratio, one.Target}))
	}
	widths := make([]int, len(table[0]))
	for _, line := range table {
		for i, cell := range line {
			widths[i] = max(widths[i], len(cell))
		}
	}
	for _, line := range table {
		text := ""
		for i, cell := range line {
			if i == 0 {
				text = fmt.Sprintf("%-*s", widths[0], cell)
			} else {
				text += fmt.Sprintf("  %*s", widths[i], cell)
			}
		}
		if _, err := fmt.Fprintln(w, strings.TrimRight(text, " ")); err != nil {
			return err
		}
	}
	return nil
}

// cells are the three columns of a summary. Percentiles of a few values would
// only look like ones.
func (s *summary) cells() []string {
	switch {
	case s == nil:
		return []string{"", "", ""}
	case s.N < 3:
		return []string{number(s.P50), "", ""}
	case s.N < 20:
		return []string{number(s.P50), "max " + number(s.Max), ""}
	case s.N < 100:
		return []string{number(s.P50), number(s.P95), "max " + number(s.Max)}
	}
	return []string{number(s.P50), number(s.P95), number(s.P99)}
}

func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
