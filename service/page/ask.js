// Requests to the service.

/** Why a request failed. `status` is the HTTP status, or 0 if there was no response. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON response of `path` to a POST of `body`, or to a GET without one; `signal` aborts it. Throws a Refusal. */
export async function ask(path, body, signal) {
  let response, text;
  try {
    // Without the credentials that the page's own URL may contain: fetch refuses those.
    const url = new URL(path, location.origin + location.pathname);
    response = await fetch(url, body === undefined ? {} : { method: "POST", body, signal });
    text = await response.text();
  } catch {
    throw new Refusal(0, "The service did not answer. It may have stopped, or the file may be too large.");
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Refusal(response.status, `The service answered with status ${response.status} but no JSON.`);
  }
  if (response.ok) return answer;
  const message = answer?.error?.message ?? answer?.error; // under /v2 the latter
  throw new Refusal(response.status, message ?? `The service answered with status ${response.status}.`);
}

/** `send`, limited to one call at a time: of the arguments that arrive meanwhile, only the newest is sent. */
export function newest(send) {
  const nothing = Symbol();
  let next = nothing;
  let busy = false;
  return async (argument) => {
    next = argument;
    if (busy) return;
    busy = true;
    try {
      while (next !== nothing) {
        const current = next;
        next = nothing;
        await send(current);
      }
    } finally {
      busy = false;
    }
  };
}
