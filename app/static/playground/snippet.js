// A request as a shell command and as Python, to be pasted. Media are read from files beside it, by their names.

import { server } from "./api.js";

/** No text of a conversation can begin with this, so none can name a file to be read. */
const MARK = `media-${[...crypto.getRandomValues(new Uint32Array(2))].join("-")}:`;

/** Files by names of their own; `address`, for requestBody, gives URLs that `python` and `curl` turn into reading them. */
export function filesBeside() {
  const files = new Map();
  const address = ({ blob, name }) => {
    let free = name;
    for (let count = 2; files.has(free) && files.get(free) !== blob; count++) {
      free = name.replace(/(\.[^.]*)?$/, `-${count}$1`);
    }
    files.set(free, blob);
    return `${MARK}${blob.type}:${free}`;
  };
  return { files, address };
}

function unmarked(value) {
  if (!value.startsWith(MARK)) return null;
  const [type] = value.slice(MARK.length).split(":", 1);
  return { type, name: value.slice(MARK.length + type.length + 1) };
}

/** The request for the official `openai` package. */
export function python(body) {
  const { enable_thinking: thinking, ...known } = body;
  const bearer = server.keyHeader.toLowerCase() === "authorization" && server.keyPrefix.toLowerCase() === "bearer";
  const usesMedia = JSON.stringify(body).includes(MARK);
  const secret = 'os.environ["VLSERVE_API_KEY"]';
  const header = `${literal(server.keyHeader)}: ${server.keyPrefix ? `${literal(`${server.keyPrefix} `)} + ` : ""}${secret}`;
  const imports = [...(usesMedia ? ["import base64"] : []), ...(server.keyRequired ? ["import os"] : [])];
  const client = [
    `base_url=${literal(server.base)}`,
    `api_key=${server.keyRequired && bearer ? secret : '"none"'}`,
    ...(server.keyRequired && !bearer ? [`default_headers={${header}}`] : []),
  ];
  const extra = thinking === undefined ? {} : { extra_body: { enable_thinking: thinking } };
  const fields = Object.entries({ ...known, ...extra }).map(([name, value]) => `    ${name}=${pythonValue(value, 1)},`);
  return [
    ...imports,
    ...(imports.length ? [""] : []),
    "from openai import OpenAI",
    "",
    ...(usesMedia ? ["", ...PYTHON_FILE, "", ""] : []),
    `client = OpenAI(${client.join(", ")})`,
    "stream = client.chat.completions.create(",
    ...fields,
    ")",
    "for chunk in stream:",
    "    for choice in chunk.choices:",
    '        print(choice.delta.content or "", end="", flush=True)',
    "print()",
    "",
  ].join("\n");
}

const PYTHON_FILE = [
  "def data_url(kind, path):",
  '    with open(path, "rb") as file:',
  '        return f"data:{kind};base64,{base64.b64encode(file.read()).decode()}"',
];

function pythonValue(value, depth) {
  const [inner, outer] = ["    ".repeat(depth + 1), "    ".repeat(depth)];
  if (Array.isArray(value)) {
    return `[\n${value.map((item) => `${inner}${pythonValue(item, depth + 1)},\n`).join("")}${outer}]`;
  }
  if (value !== null && typeof value === "object") {
    const pairs = Object.entries(value).map(([name, item]) => [literal(name), item]);
    if (pairs.every(([, item]) => typeof item !== "object" && String(item).length < 60)) {
      return `{${pairs.map(([name, item]) => `${name}: ${pythonValue(item, depth)}`).join(", ")}}`;
    }
    return `{\n${pairs.map(([name, item]) => `${inner}${name}: ${pythonValue(item, depth + 1)},\n`).join("")}${outer}}`;
  }
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "string") {
    const file = unmarked(value);
    return file ? `data_url(${literal(file.type)}, ${literal(file.name)})` : literal(value);
  }
  return String(value);
}

/** JSON's strings are Python's as well. */
function literal(text) {
  return JSON.stringify(text);
}

/** The request for a POSIX shell, its body in a here-document. */
export function curl(body) {
  const head = [
    `curl -N ${shell(`${server.base}/chat/completions`)}`,
    "-H 'Content-Type: application/json'",
    ...(server.keyRequired
      ? [`-H "${server.keyHeader}: ${server.keyPrefix ? `${server.keyPrefix} ` : ""}$VLSERVE_API_KEY"`]
      : []),
    "-d @-",
  ].join(" \\\n  ");
  const json = JSON.stringify(body, null, 2);
  if (!json.includes(MARK)) return `${head} <<'JSON'\n${json}\nJSON\n`;
  // Without the quotes around its name a shell looks into the document: for the files, and nothing else.
  const media = new RegExp(`("${MARK}(?:[^"\\\\]|\\\\.)*")|[\\\\$\`]`, "g");
  const text = json.replace(media, (found, quoted) => {
    if (!quoted) return `\\${found}`;
    const { type, name } = unmarked(JSON.parse(quoted));
    return `"data:${type};base64,$(base64 < ${shell(name)} | tr -d '\\n')"`;
  });
  return `${head} <<JSON\n${text}\nJSON\n`;
}

function shell(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}
