"""Programs for OpenAI's and Anthropic's API in Python, unchanged."""

import os

import anthropic
import openai

url, token = os.environ["HTTP_URL"], os.environ["HTTP_TOKEN"]
said = [{"role": "user", "content": "hi"}]
checks = 0


def check(name, passes):
    global checks
    assert passes, name
    checks += 1
    print(f"ok {checks} - {name}", flush=True)


def raises(kind, call):
    try:
        call()
    except kind:
        return True
    return False


client = openai.OpenAI(base_url=url, api_key=token)
completion = client.chat.completions.create(model="m", messages=said)
check("openai: a completion", completion.choices[0].message.content == "re: hi")
check("openai: its id", completion._request_id is not None)
chunks = client.chat.completions.create(model="m", messages=said, stream=True)
check("openai: a stream", "".join(c.choices[0].delta.content or "" for c in chunks) == "re: hi")
with client.chat.completions.stream(model="m", messages=said) as stream:
    final = stream.get_final_completion()
check("openai: the stream helper", final.choices[0].message.content == "re: hi")
check("openai: a response", client.responses.create(model="m", input="hi").output_text == "re: hi")
with client.responses.stream(model="m", input="hi") as stream:
    final = stream.get_final_response()
check("openai: a streamed response", final.output_text == "re: hi")
check("openai: models", "m" in [model.id for model in client.models.list()])
create = client.chat.completions.create
check("openai: NotFoundError", raises(openai.NotFoundError, lambda: create(model="nobody-has-it", messages=said)))
broken = [{"role": "user", "content": "break off"}]
check(
    "openai: no second try of what may have been paid",
    raises(openai.InternalServerError, lambda: create(model="m", messages=broken, extra_body={"max_retries": 0})),
)

client = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=token)
for model in ["m", "claude-x"]:
    message = client.messages.create(model=model, max_tokens=100, messages=said)
    check(f"anthropic: a message of {model}", message.content[-1].text == "re: hi")
    with client.messages.stream(model=model, max_tokens=100, messages=said) as stream:
        check(f"anthropic: a stream of {model}", "".join(stream.text_stream) == "re: hi")
check("anthropic: tokens", client.messages.count_tokens(model="m", messages=said).input_tokens > 0)
check(
    "anthropic: NotFoundError",
    raises(anthropic.NotFoundError, lambda: client.messages.create(model="nobody-has-it", max_tokens=9, messages=said)),
)
