// Pictures and videos: from files to what is attached, to data: URLs, to something that can be looked at.

const VIDEOS = { mp4: "video/mp4", mov: "video/quicktime", mkv: "video/x-matroska", avi: "video/x-msvideo",
  webm: "video/webm", flv: "video/x-flv", wmv: "video/x-ms-wmv", m4v: "video/mp4" };
const PICTURES = { jpg: "image/jpeg", jpeg: "image/jpeg", png: "image/png", gif: "image/gif", bmp: "image/bmp",
  webp: "image/webp" };
/** What the server reads; the browser turns other pictures into PNG, if it can show them. */
const READ = new Set(Object.values(PICTURES));

const urls = new WeakMap();

/** {kind, name, blob} of a file; throws an Error in words for what is neither picture nor video. */
export async function attachment(file) {
  const ending = file.name?.split(".").at(-1).toLowerCase() ?? "";
  const type = file.type || VIDEOS[ending] || PICTURES[ending] || "";
  if (type.startsWith("video/")) {
    return { kind: "video", name: file.name || "video", blob: new Blob([file], { type }) };
  }
  if (!type.startsWith("image/")) throw new Error(`${file.name || "This"} is neither a picture nor a video.`);
  if (READ.has(type)) {
    return { kind: "image", name: file.name || `picture.${type.slice(6)}`, blob: new Blob([file], { type }) };
  }
  const name = file.name ? `${file.name.replace(/\.[^.]*$/, "")}.png` : "picture.png";
  return { kind: "image", name, blob: await asPng(file) };
}

async function asPng(file) {
  const picture = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name || "The picture"} is of a kind that this browser cannot read (${file.type}).`);
  });
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return png(canvas);
}

function png(canvas) {
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** The content as a data: URL, for a request. */
export function dataUrl({ blob }) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error("The file cannot be read any more."));
    reader.readAsDataURL(blob);
  });
}

function address(blob) {
  if (!urls.has(blob)) urls.set(blob, URL.createObjectURL(blob));
  return urls.get(blob);
}

/** A link that saves it as a file. */
export function save(name, blob) {
  const element = document.createElement("a");
  element.href = address(blob);
  element.download = element.textContent = name;
  return element;
}

/** An element that shows it, small. */
export function preview({ kind, name, blob }) {
  const element = document.createElement(kind === "image" ? "img" : "video");
  element.src = address(blob);
  if (kind === "image") {
    element.alt = name;
  } else {
    element.controls = true;
    element.muted = true;
    element.preload = "metadata";
    element.setAttribute("aria-label", name);
    element.addEventListener("error", () => element.replaceWith(label(name)));
  }
  return element;
}

/** For a video that the server may read though this browser cannot. */
function label(name) {
  const element = document.createElement("span");
  element.className = "file";
  element.textContent = name;
  return element;
}

/** A picture to try things with: three shapes, drawn here. */
export async function sample() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 448;
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, 448, 448);
  pen.fillStyle = "red";
  pen.beginPath();
  pen.arc(130, 140, 75, 0, 2 * Math.PI);
  pen.fill();
  pen.fillStyle = "blue";
  pen.fillRect(270, 260, 120, 120);
  return { kind: "image", name: "sample.png", blob: await png(canvas) };
}
