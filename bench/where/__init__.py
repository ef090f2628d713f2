"""Where running processes are: their threads, memory policies and pages, observed from outside and judged."""
