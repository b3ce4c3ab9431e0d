// The one way to the service.

/** What the service, or the network, says against a request; `status` is 0 where there was no answer. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The JSON answer of `path`: to a POST of `body` where there is one, else to a GET; `signal` gives it up. Throws a
 * Refusal. */
export async function ask(path, body, signal) {
  let response, text;
  try {
    // Not relative to the page's own address: if that holds a password, a browser refuses.
    const url = new URL(path, location.origin + location.pathname);
    response = await fetch(url, body === undefined ? {} : { method: "POST", body, signal });
    text = await response.text();
  } catch {
    throw new Refusal(0, "The service did not answer. It may be stopped, or the file larger than it accepts.");
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Refusal(response.status, `The service answered with status ${response.status} and no JSON.`);
  }
  if (response.ok) return answer;
  throw new Refusal(response.status, answer?.error?.message ?? `The service answered with status ${response.status}.`);
}

/** `send`, with one call under way at a time: of the things that come meanwhile, only the newest is sent. */
export function newest(send) {
  const nothing = Symbol();
  let next = nothing;
  let busy = false;
  return async (thing) => {
    next = thing;
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
