// The camera: its picture stands over the pad until one is taken or it is put away.

const QUALITY = 0.92; // of the JPEG
const button = document.getElementById("camera");
const video = document.getElementById("viewfinder");

/** Connects the button, which stays hidden without a camera API: browsers have it only over HTTPS and on localhost.
 * Calls `taken(file)` with the square that was shown, and `error(message)`. Returns a function that puts the camera away. */
export function camera({ taken, error }) {
  let stream = null;
  let opening = 0; // which opening counts: the camera may be put away before it is there

  function close() {
    opening++;
    stream?.getTracks().forEach((track) => track.stop());
    stream = video.srcObject = null;
    video.hidden = true;
    button.textContent = "Camera";
    button.className = "";
  }

  async function open() {
    const id = ++opening;
    let opened = null;
    try {
      opened = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1280 } } });
      if (id !== opening) return opened.getTracks().forEach((track) => track.stop());
      stream = video.srcObject = opened;
      stream.getTracks().forEach((track) => track.addEventListener("ended", () => stream === opened && close()));
      await video.play();
      if (id !== opening) return;
      video.hidden = false;
      button.textContent = "Take picture";
      button.className = "live";
    } catch ({ message }) {
      if (id !== opening) return;
      close();
      error(`The camera cannot be used: ${message}.`);
    }
  }

  async function take() {
    const { videoWidth: width, videoHeight: height } = video;
    const side = Math.min(width, height);
    const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
    canvas.getContext("2d").drawImage(video, (width - side) / 2, (height - side) / 2, side, side, 0, 0, side, side);
    close();
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", QUALITY));
    taken(new File([blob], "camera.jpg", { type: blob.type }));
  }

  button.hidden = !navigator.mediaDevices?.getUserMedia;
  button.addEventListener("click", () => (video.hidden ? open() : take()));
  addEventListener("keydown", ({ key }) => key === "Escape" && close());
  return close;
}
