module m3.dev/tools/pause

go 1.25.0
