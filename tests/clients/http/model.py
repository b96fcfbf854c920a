"""A real model, asked by OpenAI's and Anthropic's libraries for Python."""

import os

import anthropic
import openai

url, token = os.environ["HTTP_URL"], os.environ["HTTP_TOKEN"]
asked = {
    "model": "smollm2-135m",
    "messages": [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}],
    "max_tokens": 24,
}


def check(number, name, text):
    assert "Paris" in text, f"{name}: {text}"
    print(f"ok {number} - {name}", flush=True)


chunks = openai.OpenAI(base_url=url, api_key=token).chat.completions.create(**asked, temperature=0, stream=True)
check(1, "openai", "".join(chunk.choices[0].delta.content or "" for chunk in chunks))
# Neither the library nor the API's version of today takes a temperature.
headers = {"anthropic-version": "2023-06-01"}
client = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=token, default_headers=headers)
with client.messages.stream(**asked, extra_body={"temperature": 0}) as stream:
    check(2, "anthropic", "".join(stream.text_stream))
