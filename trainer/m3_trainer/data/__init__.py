"""Rows in: `sources` reads them, `sample` makes them, `frame` checks what was read."""
