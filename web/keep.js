// What outlives a reload: the pictures that were sent, in the browser's own database.

const STORE = "pictures";

const opened = new Promise((resolve) => {
  const request = indexedDB.open("upscale", 1);
  request.onupgradeneeded = () => request.result.createObjectStore(STORE, { keyPath: "id" });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => resolve(null);
}).catch(() => null); // a browser that keeps nothing: the page works until it is reloaded

async function run(mode, act) {
  const database = await opened;
  if (!database) return undefined;
  return new Promise((resolve, reject) => {
    const transaction = database.transaction(STORE, mode);
    const request = act(transaction.objectStore(STORE));
    transaction.oncomplete = () => resolve(request.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

export const keep = (record) => run("readwrite", (store) => store.put(record));
export const forget = (id) => run("readwrite", (store) => store.delete(id));
export const kept = async () => (await run("readonly", (store) => store.getAll())) ?? [];
