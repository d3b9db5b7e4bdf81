// Files to save or copy; the server makes them at full size from the same prompts.

const EXTENSIONS = { json: 'json', coco: 'coco.json', labelme: 'labelme.json', yolo: 'txt' };

async function exportAs(tab, kind) {
  const { trim, soft, opacity } = tab.settings;
  const numbers = tab.store.document.objects.map((object) => object.number);
  tab.showBusy('Preparing the file');
  try {
    return await tab.client.export({ state: tab.state(), kind, name: tab.image.name, numbers, trim, soft, opacity });
  } finally {
    tab.showBusy(tab.client.running && 'Computing');
  }
}

export async function saveAs(tab, kind) {
  const blob = await exportAs(tab, kind);
  const url = URL.createObjectURL(blob);
  const stem = stemOf(tab.image.name);
  download(url, kind in EXTENSIONS ? `${stem}.${EXTENSIONS[kind]}` : `${stem}-${kind}.png`);
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

export const stemOf = (name) => name.replace(/\.[^.]*$/, '');

export function download(url, name) {
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
}

export async function copyAs(tab, kind) {
  if (!navigator.clipboard?.write) throw new Error('This browser allows copying only over https or on localhost. Save the file instead.');
  // Passed as a promise, since some browsers require the copy to start within the click.
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': exportAs(tab, kind) })]);
  tab.showMessage('Copied.', 'pet');
}
