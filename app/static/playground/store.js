// Conversations in this browser's database, pictures included. Where it has none, they last as long as the page.

const NAME = "vlserve-playground";
const TABLE = "conversations";
const known = new Map(); // ids of conversations to those of their turns, as last seen in the database
let opened;

/** All conversations, the latest first; null if the database does not answer. */
export async function all() {
  const found = await table("readonly").then((rows) => wrapped(rows.getAll())).catch(() => null);
  for (const turn of found?.flatMap(({ turns }) => turns) ?? []) {
    if (turn.earlier?.content) turn.answer = turn.earlier; // the page was closed while there was no new one
    delete turn.earlier;
  }
  found?.forEach(numbered);
  found?.filter((one) => !isKnown(one)).forEach(seen);
  return found?.sort((one, other) => other.time - one.time) ?? null;
}

/** Keep a conversation, which takes over the turns that another tab has added; false if it was deleted there. */
export async function keep(conversation) {
  try {
    const rows = await table("readwrite");
    const stored = await wrapped(rows.get(conversation.id));
    if (!stored && isKnown(conversation)) return false;
    if (stored) addTo(conversation, stored);
    await put(rows, conversation);
  } catch {
    // it lasts as long as the page
  }
  return true;
}

/** Keep a conversation while the page is left, which has no time to look first. */
export async function keepAtOnce(conversation) {
  await table("readwrite").then((rows) => put(rows, conversation)).catch(() => {});
}

/** Whether a conversation has been in the database: if it is there no more, another tab has deleted it. */
export function isKnown({ id }) {
  return known.has(id);
}

/** A conversation becomes what another tab has made of it; turns that have not changed stay the same objects. */
export function become(conversation, stored) {
  conversation.turns = newest(conversation, stored.turns);
  conversation.time = stored.time;
  seen(stored);
}

function addTo(conversation, stored) {
  const before = known.get(stored.id) ?? new Set(); // what is gone of these was left out here
  numbered(stored);
  const mine = new Set(conversation.turns.map(({ id }) => id));
  const theirs = new Set(stored.turns.map(({ id }) => id));
  conversation.turns = [
    ...newest(conversation, stored.turns.filter(({ id }) => mine.has(id) || !before.has(id))),
    ...conversation.turns.filter(({ id }) => !theirs.has(id)),
  ].sort((one, other) => one.id - other.id);
  conversation.time = Math.max(conversation.time, stored.time);
}

function newest({ turns }, stored) {
  return stored.map((turn) => {
    const mine = turns.find(({ id }) => id === turn.id);
    return mine && (turn.time ?? 0) <= (mine.time ?? 0) ? mine : turn;
  });
}

/** The turns of older versions have no ids; their places are as good. */
function numbered({ turns }) {
  turns.forEach((turn, index) => { turn.id ??= index; });
}

/** Note the turns of a conversation that are in the database and here. */
function seen({ id, turns }) {
  known.set(id, new Set(turns.map((turn) => turn.id)));
}

async function put(rows, conversation) {
  const request = rows.put(conversation);
  rows.transaction.commit(); // by itself it waits for the page, which may be closed
  await wrapped(request);
  seen(conversation);
}

/** Forget one conversation, or all of them. */
export async function forget(conversation = null) {
  const rows = await table("readwrite").catch(() => null);
  const request = conversation ? rows?.delete(conversation.id) : rows?.clear();
  rows?.transaction.commit();
  if (request) await wrapped(request).catch(() => {});
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

async function table(mode) {
  opened ??= wrapped(indexedDB.open(NAME, 1), (request) => {
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  });
  return (await opened).transaction(TABLE, mode).objectStore(TABLE);
}

function wrapped(request, prepare = () => {}) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
    prepare(request);
  });
}
