// Pictures to start with, so that the page is never empty. Where they come from: `examples/CREDITS.md`.

const EXAMPLES = [
  ['kitten.webp', 'A kitten with a ball of wool', 'Photo: Loliloli, public domain'],
  ['dog.webp', 'A German shepherd', 'Photo: Hans Kemperman, public domain'],
  ['chelsea.webp', 'Chelsea the cat', 'Photo: Stéfan van der Walt, CC0'],
];

export function examples(list, base, choose) {
  const buttons = EXAMPLES.map(([name, words, credit]) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.title = `${words}. ${credit}`;
    button.setAttribute('aria-label', `Example: ${words}`);
    const image = document.createElement('img');
    image.src = `${base}files/examples/${name}`;
    image.alt = '';
    button.append(image);
    button.onclick = () => choose(name);
    button.dataset.name = name;
    return button;
  });
  list.append(...buttons);
  return {
    first: EXAMPLES[0][0],
    mark: (name) => buttons.forEach((button) => button.setAttribute('aria-pressed', String(button.dataset.name === name))),
  };
}
