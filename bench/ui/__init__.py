"""`make ui`: luigi's scheduler with its page, and the outputs as pages, both on loopback only."""
