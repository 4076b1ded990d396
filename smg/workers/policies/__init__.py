"""How the next worker is chosen among those of one model; `registry` has them all."""
