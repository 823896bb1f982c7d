"""The parts of benches/compare: `systems` and `workloads` say what is compared on which `trees`, `measure` measures,
`floor` tells what no system can be faster than, `report`, `markdown` and `page` show it, `selftest` proves it."""
