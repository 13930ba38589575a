"""Decisions, one per file, pure: what is known goes in, the verdict comes out; the clock is passed in."""
