// Files that are chosen, dropped or pasted while their tab is shown.

// `type` is the start of the MIME type of files that may be pasted.
export function acceptFiles(tab, type, open) {
  const input = tab.part('file');
  input.onchange = () => {
    if (input.files[0]) open(input.files[0]);
    input.value = '';
  };
  // Entering a nested element leaves its parent, so count: at zero the drag has left the page.
  let depth = 0;
  const dragged = (change) => (event) => {
    if (![...(event.dataTransfer?.types ?? [])].includes('Files')) return;
    event.preventDefault();
    depth = Math.max(0, depth + change);
    tab.part('drop').hidden = depth === 0;
  };
  tab.root.addEventListener('dragenter', dragged(1));
  tab.root.addEventListener('dragover', dragged(0));
  tab.root.addEventListener('dragleave', dragged(-1));
  tab.root.addEventListener('drop', (event) => {
    dragged(-depth)(event);
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });
  document.addEventListener('paste', (event) => {
    const pasted = [...(event.clipboardData?.files ?? [])].find((file) => file.type.startsWith(type));
    if (pasted && tab.isShown) open(pasted);
  });
}

// What the server has against a file, with the file's name.
export const openError = (file, error) => (error.status === 400 && file.name ? `${file.name}: ${error.message}` : error.message);
