// The server's HTTP API. Paths are relative, so that the page works below a prefix too.

const KEY = "decant.key";

/** The API key, kept for this tab only. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** An error body of the API: `param` names the field at fault. */
export class ApiError extends Error {
  constructor(status, { message, param = null, code = null } = {}) {
    super(message || `The server answered with status ${status}.`);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

/** What can be shown of an error: all but a request that was stopped is an ApiError. */
function shown(error, what) {
  if (error instanceof ApiError || error.name === "AbortError") return error;
  return new ApiError(0, { message: `${what} (${error.message}).` });
}

async function ask(path, options = {}) {
  const headers = { ...(options.body ? { "Content-Type": "application/json" } : {}) };
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    // A header cannot hold every character that can be typed.
    throw shown(error, "The request could not be sent");
  }
  if (response.ok) return response;
  const body = await response.json().catch((error) => {
    if (error.name === "AbortError") throw error;
  });
  throw new ApiError(response.status, body?.error ?? {}); // what stands before the server may say anything
}

async function object(response) {
  try {
    const body = await response.json();
    if (typeof body !== "object" || body === null) throw new TypeError("it is no object");
    return body;
  } catch (error) {
    throw shown(error, "The server's answer could not be read");
  }
}

export const get = async (path) => object(await ask(path));

export const post = async (path, body, signal) =>
  object(await ask(path, { method: "POST", body: JSON.stringify(body), signal }));

/**
 * Every event of a streamed answer, parsed, until [DONE]. Raises ApiError for an event that is an error, and
 * for a stream that breaks off or is none.
 */
export async function* stream(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  let complete = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) break;
      buffer += value;
      const lines = buffer.split(/\r?\n/);
      buffer = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("data:")) continue;
        const data = line.slice(5).trim();
        if (data === "[DONE]") {
          complete = true; // what is left is the end of the response
          continue;
        }
        const event = JSON.parse(data);
        if (event.error) throw new ApiError(event.error.code ?? 500, event.error);
        yield event;
      }
    }
  } catch (error) {
    if (complete && error.name !== "AbortError") return;
    throw shown(error, "The answer broke off");
  } finally {
    reader.cancel().catch(() => {});
  }
  if (!complete) throw new ApiError(0, { message: "The stream ended before the answer was complete." });
}
