// The last request as a command line.

const box = document.getElementById("curl");
const code = box.querySelector("code");
const copy = box.querySelector("button");

/** A text as one word of a POSIX shell. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

/** Shows the command that sends `body`, a File or Blob, to `path`; hides it for null. */
export async function describeRequest(path, body) {
  box.hidden = !body;
  if (!body) return;
  const url = quoted(new URL(path, location.origin + location.pathname).href);
  const isText = body.type === "application/json";
  const data = isText ? `-H 'content-type: application/json' -d ${quoted(await body.text())}` : `--data-binary @${quoted(body.name ?? "FILE")}`;
  code.textContent = `curl ${url} ${data}`;
  copy.textContent = "Copy";
}

copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(code.textContent); // only on HTTPS and localhost
    copy.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(code);
    copy.textContent = "Selected: copy it with the keyboard";
  }
});
