// Markdown to elements. markdown-it only parses; nothing here is ever HTML in a string: each token becomes an element
// of a list, or text. What a model writes can be bold, but it cannot run.

import markdownit from "./markdown-it.esm.min.mjs";
import { block } from "./block.js";

const ELEMENTS = new Set(["p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "table", "thead",
  "tbody", "tr", "th", "td", "strong", "em", "s"]);
const LINKS = new Set(["http:", "https:", "mailto:"]);

const parser = markdownit({ html: false, linkify: true, breaks: true });
parser.linkify.set({ fuzzyLink: false, fuzzyEmail: false, fuzzyIP: false });
parser.validateLink = isSafe;

/** Whether an address may be a link: whole, and of a kind that opens a page or a letter. */
export function isSafe(address) {
  try {
    return LINKS.has(new URL(address).protocol);
  } catch {
    return false; // relative: a model does not know this server
  }
}

/**
 * Show a text in an element. Blocks that have not changed since the last call stay as they are, so that a growing
 * text neither flickers nor loses what is selected in it.
 */
export function render(element, text) {
  const found = {};
  const parts = topLevel(parser.parse(text, found), text.split("\n"));
  const references = JSON.stringify(found.references);
  const shown = (element.references === references && element.blocks) || []; // a new one may make links of any text
  let same = 0;
  while (same < shown.length && same < parts.length && shown[same] === parts[same].source) same++;
  while (element.childNodes.length > same) element.lastChild.remove();
  for (const part of parts.slice(same)) element.append(built(part.tokens));
  element.references = references;
  element.blocks = parts.map((part) => part.source);
}

/** Runs of tokens that make one block each, with the lines that they come from. */
function topLevel(tokens, lines) {
  const parts = [];
  let run = [];
  for (const token of tokens) {
    run.push(token);
    if (token.level === 0 && token.nesting !== 1) {
      const [from, to] = run[0].map ?? [0, 0];
      parts.push({ tokens: run, source: `${run[0].type}\n${lines.slice(from, to).join("\n")}` });
      run = [];
    }
  }
  return parts;
}

/** One element for the tokens of a block. */
function built(tokens) {
  const root = document.createElement("div");
  fill(root, tokens);
  return root.childNodes.length === 1 ? root.firstChild : root;
}

function fill(root, tokens) {
  const open = [root];
  for (const token of tokens) {
    const top = open.at(-1);
    if (token.nesting === 1) {
      const element = token.hidden ? top : container(token);
      if (element !== top) top.append(element);
      open.push(element);
    } else if (token.nesting === -1) {
      open.pop();
    } else if (token.type === "inline") {
      fill(top, token.children);
    } else {
      top.append(leaf(token));
    }
  }
}

function container(token) {
  if (token.type === "link_open" && isSafe(token.attrGet("href"))) return link(token.attrGet("href"));
  const element = document.createElement(ELEMENTS.has(token.tag) ? token.tag : "span");
  const start = Number(token.attrGet("start") ?? 1);
  if (token.tag === "ol" && start !== 1) element.start = start;
  const side = token.attrGet("style")?.match(/^text-align:(left|center|right)$/)?.[1];
  if (side) element.className = side;
  return element;
}

function link(address) {
  const element = document.createElement("a");
  element.href = address;
  element.target = "_blank";
  element.rel = "noopener noreferrer nofollow";
  return element;
}

function leaf(token) {
  switch (token.type) {
    case "softbreak":
    case "hardbreak":
      return document.createElement("br");
    case "hr":
      return document.createElement("hr");
    case "code_inline": {
      const element = document.createElement("code");
      element.textContent = token.content;
      return element;
    }
    case "fence":
    case "code_block":
      return block(token.content, token.info?.trim().split(/\s+/)[0] ?? "");
    case "image":
      return picture(token);
    default:
      return document.createTextNode(token.content);
  }
}

/** A link in a picture's place: loading it would tell a stranger's server what was asked here. */
function picture(token) {
  const address = token.attrGet("src");
  const element = isSafe(address) ? link(address) : document.createElement("span");
  element.textContent = token.content || "picture";
  return element;
}
