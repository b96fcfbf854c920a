"""Programs for OpenAI's and Anthropic's API in Python, unchanged."""

import json
import os

import anthropic
import openai

url, token = os.environ["HTTP_URL"], os.environ["HTTP_TOKEN"]
checks = 0


def says(text):
    return [{"role": "user", "content": text}]


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
create = client.chat.completions.create
hi = says("hi")
completion = create(model="m", messages=hi)
check("openai: a completion", completion.choices[0].message.content == "re: hi")
check("openai: its id", completion._request_id is not None)
chunks = create(model="m", messages=hi, stream=True)
check("openai: a stream", "".join(c.choices[0].delta.content or "" for c in chunks) == "re: hi")
with client.chat.completions.stream(model="m", messages=hi) as stream:
    final = stream.get_final_completion()
check("openai: the stream helper", final.choices[0].message.content == "re: hi")

schema = {"type": "object", "properties": {"city": {"type": "string"}}}
tools = [{"type": "function", "function": {"name": "weather", "parameters": schema}}]


def is_paris(completion):
    (call,) = completion.choices[0].message.tool_calls
    return (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})


wanted = {"model": "m", "messages": says("call a tool"), "tools": tools}
check("openai: a tool", is_paris(create(**wanted)))
with client.chat.completions.stream(**wanted) as stream:
    check("openai: a streamed tool", is_paris(stream.get_final_completion()))

check("openai: a response", client.responses.create(model="m", input="hi").output_text == "re: hi")
with client.responses.stream(model="m", input="hi") as stream:
    final = stream.get_final_response()
check("openai: a streamed response", final.output_text == "re: hi")
vectors = client.embeddings.create(model="e", input=["hi", "hello"])
check("openai: embeddings", [one.embedding for one in vectors.data] == [[2, 104, 0.5], [5, 104, 0.5]])
vectors = client.embeddings.create(model="e", input="hi", encoding_format="float")
check("openai: embeddings as numbers", vectors.data[0].embedding == [2, 104, 0.5] and vectors.usage.total_tokens == 2)
check("openai: no embeddings of tokens", raises(openai.BadRequestError, lambda: client.embeddings.create(model="e", input=[1, 2])))
check("openai: models", "m" in [model.id for model in client.models.list()])
check("openai: a model with a slash in its id", client.models.retrieve("v/m").id == "v/m")
check("openai: NotFoundError", raises(openai.NotFoundError, lambda: create(model="nobody-has-it", messages=hi)))
check("openai: BadRequestError", raises(openai.BadRequestError, lambda: create(model="m", messages=hi, temperature="hot")))
stranger = openai.OpenAI(base_url=url, api_key="not-a-token").chat.completions
check("openai: AuthenticationError", raises(openai.AuthenticationError, lambda: stranger.create(model="m", messages=hi)))
once = {"max_retries": 0}
check(
    "openai: no second try of what may have been paid",
    raises(openai.InternalServerError, lambda: create(model="m", messages=says("break off"), extra_body=once)),
)
completion = create(model="m", messages=says("be busy once"), extra_body=once)
check("openai: a second try of what was not", completion.choices[0].message.content == "re: be busy once")


def broken_stream():
    for chunk in create(model="m", messages=says("break off"), stream=True, extra_body=once):
        assert chunk.choices


check("openai: a stream that breaks off", raises(openai.APIError, broken_stream))

tools = [{"name": "weather", "input_schema": schema}]
for version in ["2023-06-01", "2026-10-21"]:
    headers = {"anthropic-version": version}
    client = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key=token, default_headers=headers)
    create = client.messages.create
    for model in ["m", "claude-x"]:
        message = create(model=model, max_tokens=100, messages=hi)
        check(f"anthropic {version}: a message of {model}", message.content[-1].text == "re: hi")
        with client.messages.stream(model=model, max_tokens=100, messages=hi) as stream:
            check(f"anthropic {version}: a stream of {model}", "".join(stream.text_stream) == "re: hi")
    wanted = {"model": "m", "max_tokens": 100, "messages": says("call a tool"), "tools": tools}
    message = create(**wanted)
    check(f"anthropic {version}: a tool", message.content[-1].input == {"city": "Paris"})
    with client.messages.stream(**wanted) as stream:
        message = stream.get_final_message()
    check(f"anthropic {version}: a streamed tool", message.content[-1].input == {"city": "Paris"})
    check(f"anthropic {version}: tokens", client.messages.count_tokens(model="m", messages=hi).input_tokens > 0)
    check(f"anthropic {version}: models", "m" in [model.id for model in client.models.list()])
    check(
        f"anthropic {version}: NotFoundError",
        raises(anthropic.NotFoundError, lambda: create(model="nobody-has-it", max_tokens=9, messages=hi)),
    )
    check(
        f"anthropic {version}: BadRequestError",
        raises(anthropic.BadRequestError, lambda: create(model="m", max_tokens=-1, messages=hi)),
    )
stranger = anthropic.Anthropic(base_url=url.removesuffix("/v1"), api_key="not-a-token").messages
check(
    "anthropic: AuthenticationError",
    raises(anthropic.AuthenticationError, lambda: stranger.create(model="m", max_tokens=9, messages=hi)),
)
