// Conversations in this browser's database, pictures included. Where it has none, they last as long as the page.

const NAME = "vlserve-playground";
const TABLE = "conversations";
let opened;

/** All conversations, the latest first. */
export async function all() {
  const found = (await work("readonly", (table) => table.getAll()).catch(() => null)) ?? [];
  for (const turn of found.flatMap(({ turns }) => turns)) {
    if (turn.earlier?.content) turn.answer = turn.earlier; // the page was closed while there was no new one
    delete turn.earlier;
  }
  return found.sort((one, other) => other.time - one.time);
}

/** Keep a conversation as it is now. */
export async function keep(conversation) {
  await work("readwrite", (table) => table.put(conversation)).catch(() => {});
}

/** Forget one conversation, or all of them. */
export async function forget(conversation = null) {
  await work("readwrite", (table) => (conversation ? table.delete(conversation.id) : table.clear())).catch(() => {});
}

/** A conversation without turns. */
export function fresh() {
  const random = crypto.getRandomValues(new Uint32Array(2)); // randomUUID is for secure contexts only
  return { id: `${Date.now()}-${random.join("-")}`, time: Date.now(), turns: [] };
}

/** What a conversation is called: its first question. */
export function title({ turns: [first] }) {
  if (!first) return "New conversation";
  return first.question.text.trim().slice(0, 80) || first.question.media[0]?.name || "…";
}

async function work(mode, what) {
  opened ??= wrapped(indexedDB.open(NAME, 1), (request) => {
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  });
  const transaction = (await opened).transaction(TABLE, mode);
  const request = what(transaction.objectStore(TABLE));
  transaction.commit(); // by itself it waits for the page, which may be closed
  return wrapped(request);
}

function wrapped(request, prepare = () => {}) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    prepare(request);
  });
}
