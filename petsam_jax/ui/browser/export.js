// Files to take home: made by the server at full size from the same prompts.

const ENDINGS = { json: 'json', coco: 'coco.json', labelme: 'labelme.json', yolo: 'txt' };

async function resultOf(app, kind) {
  const { trim, soft, opacity } = app.values;
  const numbers = app.store.document.objects.map((object) => object.number);
  app.sign('Making the file');
  try {
    return await app.client.result({ state: app.state(), kind, name: app.picture.name, numbers, trim, soft, opacity });
  } finally {
    app.sign(app.client.running && 'Computing');
  }
}

export async function saveResult(app, kind) {
  const blob = await resultOf(app, kind);
  const address = URL.createObjectURL(blob);
  const stem = stemOf(app.picture.name);
  download(address, kind in ENDINGS ? `${stem}.${ENDINGS[kind]}` : `${stem}-${kind}.png`);
  setTimeout(() => URL.revokeObjectURL(address), 60000);
}

export const stemOf = (name) => name.replace(/\.[^.]*$/, '');

export function download(address, name) {
  const link = document.createElement('a');
  link.href = address;
  link.download = name;
  link.click();
}

export async function copyResult(app, kind) {
  if (!navigator.clipboard?.write) throw new Error('This browser lets pages copy only over https or on localhost; save the file instead.');
  // The promise is handed over at once: some browsers want the copying to begin within the click.
  await navigator.clipboard.write([new ClipboardItem({ 'image/png': resultOf(app, kind) })]);
  app.tell('Copied.', 'pet');
}
