"""`python -m g2g_agent` is the command `g2g-agent`."""

from g2g_agent.binary import main

main()
