// What outlives a reload: the pictures and what was chosen for them, in the browser's own database.

const PICTURES = "pictures"; // what never changes, and is large
const STATES = "states"; // what changes

const opened = new Promise((resolve) => {
  const request = indexedDB.open("upscale", 2);
  request.onupgradeneeded = () => {
    for (const name of [PICTURES, STATES]) {
      if (!request.result.objectStoreNames.contains(name)) request.result.createObjectStore(name, { keyPath: "id" });
    }
  };
  request.onsuccess = () => resolve(request.result);
  request.onerror = request.onblocked = () => resolve(null); // by an older page in another tab
}).catch(() => null); // a browser that keeps nothing: the page works until it is reloaded

async function run(mode, act) {
  const database = await opened;
  if (!database) throw new Error("There is no database.");
  return new Promise((resolve, reject) => {
    const transaction = database.transaction([PICTURES, STATES], mode);
    const requests = act(transaction.objectStore(PICTURES), transaction.objectStore(STATES));
    transaction.commit(); // at once: one that waits for the page to say that this was all is undone if the page is left
    transaction.oncomplete = () => resolve(requests.map(({ result }) => result));
    transaction.onabort = () => reject(transaction.error);
  });
}

const stateOf = ({ id, options, request, draft, queued, taken, over, resent }) => ({ id, options, request, draft, queued, taken, over, resent });

const tabs = new BroadcastChannel("upscale"); // this page in others: each shows, and may change, the same pictures

/** `act` hears the id of each picture of which another tab has changed what is kept, or has removed it. */
export function onChangeElsewhere(act) {
  tabs.onmessage = ({ data: id }) => act(id);
}

/** Keep a picture, in place of that with the id `instead`; `item.kept` tells whether that worked, which a full disk or a private window may prevent. */
export function keep(item, instead = "") {
  item.keeping = put(item, instead);
  return item.keeping;
}

async function put(item, instead) {
  const { id, at, name, file, madeFrom } = item;
  try {
    await run("readwrite", (pictures, states) => [
      pictures.put({ id, at, name, file, madeFrom }), states.put(stateOf(item)), pictures.delete(instead), states.delete(instead),
    ]);
    item.kept = item.id === id;
  } catch (error) {
    console.info("This browser does not keep the picture, so that a reload would lose it.", error);
  }
}

/** Keep what has changed of a picture that is kept. */
export async function note(item) {
  await item.keeping;
  if (!item.kept) return;
  await run("readwrite", (_, states) => [states.put(stateOf(item))]).catch(() => { item.kept = false; });
  tabs.postMessage(item.id);
}

export async function forget(item) {
  const { id } = item;
  item.kept = false;
  await run("readwrite", (pictures, states) => [pictures.delete(id), states.delete(id)]).catch(() => {}); // nor is it there
  tabs.postMessage(id);
}

/** What is kept of that picture but its pixels; undefined where nothing is. */
export const stateKept = async (id) => (await run("readonly", (_, states) => [states.get(id)]))[0];

/** All of them, the oldest first. */
export async function kept() {
  try {
    const [pictures, states] = await run("readonly", (...stores) => stores.map((store) => store.getAll()));
    const byId = new Map(states.map((state) => [state.id, state]));
    return pictures.map((picture) => ({ ...picture, ...byId.get(picture.id), kept: true })).sort((a, b) => a.at - b.at);
  } catch {
    return [];
  }
}
