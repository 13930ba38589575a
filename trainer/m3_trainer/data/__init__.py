"""Rows in: `sources` reads them, from `stores` of files or by `sql`, as Arrow's `tables`; `sample` makes them, `kaggle` fetches
them; `frame` checks what was read."""
