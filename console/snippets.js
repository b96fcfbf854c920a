// The same request for other programs. Keys and addresses of theirs stay names.

const quoted = (text) => `'${text.replaceAll("'", "''")}'`
const json = (value, space = 2) => JSON.stringify(value, null, space)
const indent = (text, by) => text.replaceAll('\n', `\n${' '.repeat(by)}`)
const python = (value) => json(value, 4).replace(/\b(true|false|null)\b(?=\s*[,\n\]}]|$)/g, (word) => ({ true: 'True', false: 'False', null: 'None' })[word])

export const LANGUAGES = [['curl', 'curl'], ['sql', 'SQL'], ['python', 'Python, openai'], ['node', 'Node, openai'], ['supabase', 'supabase-js']]

export function snippet(language, base, request) {
  const { model, messages, ...options } = request
  const named = Object.entries(options)
  switch (language) {
    case 'curl':
      return `curl -N ${base}/chat/completions \\\n  -H "Authorization: Bearer $GATEWAY_KEY" \\\n  -H 'Content-Type: application/json' \\\n  -d '${json({ model, stream: true, ...options, messages }).replaceAll("'", "'\\''")}'\n`
    case 'sql':
      return `SELECT chat_complete(\n    ${quoted(model)},\n    ${quoted(json(messages, 0))}${named.length ? `,\n    ${quoted(json(options, 0))}` : ''}\n);\n`
    case 'python':
      return `import os\n\nfrom openai import OpenAI\n\nclient = OpenAI(base_url=${json(base)}, api_key=os.environ["GATEWAY_KEY"])\nstream = client.chat.completions.create(\n    model=${json(model)},\n    messages=${indent(python(messages), 4)},\n${named.map(([key, value]) => `    ${key}=${json(value)},\n`).join('')}    stream=True,\n)\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="")\n`
    case 'node':
      return `import OpenAI from 'openai'\n\nconst client = new OpenAI({ baseURL: ${json(base)}, apiKey: process.env.GATEWAY_KEY })\nconst stream = await client.chat.completions.create({\n  model: ${json(model)},\n  messages: ${indent(json(messages), 2)},\n${named.map(([key, value]) => `  ${key}: ${json(value)},\n`).join('')}  stream: true,\n})\nfor await (const chunk of stream) {\n  process.stdout.write(chunk.choices[0]?.delta?.content ?? '')\n}\n`
    default:
      return `const { data, error } = await supabase.rpc('chat_complete', {\n  model: ${json(model)},\n  messages: ${indent(json(messages), 2)},\n  options: ${indent(json({ ...options, on_deadline: 'queue' }), 2)},\n})\nif (error) throw error\nconsole.log(data.choices[0].message.content)\n`
  }
}
