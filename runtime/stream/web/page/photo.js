// A photograph of one's own, captioned as the frames are.
import { list } from "./sentences.js";

export function photographs($, toast) {
  const file = $("photo-file"), dialog = $("photo-dialog"), image = $("photo-image");
  const choose = () => {
    file.value = "";
    file.click();
  };
  $("photo").onclick = choose;
  $("photo-another").onclick = choose;
  $("photo-close").onclick = () => dialog.close();
  dialog.addEventListener("close", () => image.removeAttribute("src"));
  file.onchange = () => file.files.length && caption(file.files[0]);
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    if (event.dataTransfer.files.length) caption(event.dataTransfer.files[0]);
  });

  async function caption(photograph) {
    URL.revokeObjectURL(image.src);
    image.src = URL.createObjectURL(photograph);
    $("photo-caption").textContent = "…";
    $("photo-sentences").replaceChildren();
    if (!dialog.open) dialog.showModal();
    const answer = await fetch(`/caption?beams=5&nbest=3`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: photograph,
    }).catch(() => null);
    const result = answer ? await answer.json() : { error: "camscribe does not answer" };
    if (result.error) {
      dialog.close();
      toast(result.error);
      return;
    }
    $("photo-caption").textContent = result.caption;
    list($("photo-sentences"), result.hypotheses.map((each) => ({ ...each, text: each.caption })));
  }
}
