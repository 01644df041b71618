"""`hrsa rehearse`: a whole study tried in small before the long run, and what the whole will cost."""
