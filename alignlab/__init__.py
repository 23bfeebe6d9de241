"""alignlab: align a language model twice, with PPO and with DPO, and judge both against the exact optimum."""

import os

# Where another program shares the cores, waiting threads that spin make torch several times slower; set before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
