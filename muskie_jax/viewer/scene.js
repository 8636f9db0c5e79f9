"use strict";
// The scene is in the page, see page.py: x right, y up, z backward. A camera looks along its -z axis.
const HOME_FIELD = 50; // vertical field of view at the start, degrees
const FLIGHT = 800; // milliseconds
const POINT = 1.4; // diameter of a point at the start, in distances between neighbours
const CLICK = 4; // pixels that a pointer may move between press and release of a click

const scene = JSON.parse(document.getElementById("scene").textContent);
const element = (id) => document.getElementById(id);
const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
const canvas = element("canvas"), hint = element("hint");
THREE.ColorManagement.enabled = false; // colours of photographs are shown as they are

function bytes(base64) {
  const text = atob(base64), found = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) found[i] = text.charCodeAt(i); // ten times as fast as Uint8Array.from
  return found;
}

function makePoints(layer) {
  const geometry = new THREE.BufferGeometry();
  const positions = new Uint16Array(bytes(layer.points).buffer);
  geometry.setAttribute("position", new THREE.BufferAttribute(positions, 3));
  geometry.setAttribute("color", new THREE.BufferAttribute(bytes(layer.colours), 3, true));
  const material = new THREE.ShaderMaterial({
    uniforms: { size: { value: 1 }, smallest: { value: 1 } },
    vertexShader: `
      uniform float size, smallest;
      attribute vec3 color;
      varying vec3 shade;
      void main() {
        shade = color;
        vec4 seen = modelViewMatrix * vec4(position, 1.0);
        gl_Position = projectionMatrix * seen;
        gl_PointSize = clamp(size / -seen.z, smallest, 64.0);
      }`,
    fragmentShader: `
      varying vec3 shade;
      void main() {
        if (length(gl_PointCoord - 0.5) > 0.5) discard;
        gl_FragColor = vec4(shade, 1.0);
      }`,
  });
  const points = new THREE.Points(geometry, material);
  points.position.fromArray(layer.low);
  points.scale.setScalar(layer.step);
  points.frustumCulled = false;
  return points;
}

function makeCamera(layer, view, texture) {
  const [x, y] = layer.tangents[view], corners = [[-x, y], [x, y], [x, -y], [-x, -y]];
  const colour = new THREE.Color(...scene.views[view].colour.map((level) => level / 255));
  const ends = corners.flatMap(([a, b], i) => {
    const [c, d] = corners[(i + 1) % 4];
    return [0, 0, 0, a, b, -1, a, b, -1, c, d, -1];
  });
  const lines = new THREE.BufferGeometry();
  lines.setAttribute("position", new THREE.BufferAttribute(new Float32Array(ends), 3));
  const picture = new THREE.BufferGeometry(), plane = corners.flatMap(([a, b]) => [a, b, -1]);
  picture.setAttribute("position", new THREE.BufferAttribute(new Float32Array(plane), 3));
  const inPicture = new Float32Array([0, 1, 1, 1, 1, 0, 0, 0]);
  picture.setAttribute("uv", new THREE.BufferAttribute(inPicture, 2));
  picture.setIndex(new THREE.BufferAttribute(new Uint16Array([0, 3, 2, 0, 2, 1]), 1));
  const camera = new THREE.Group();
  const surface = { map: texture, side: THREE.DoubleSide };
  camera.add(new THREE.LineSegments(lines, new THREE.LineBasicMaterial({ color: colour })));
  camera.add(new THREE.Mesh(picture, new THREE.MeshBasicMaterial(surface)));
  camera.applyMatrix4(new THREE.Matrix4().fromArray(layer.cameras[view]).transpose());
  camera.scale.setScalar(scene.camera_depth);
  camera.userData = { view, colour };
  return camera;
}

// Moves smoothly between viewpoints: a position, the point that is looked at, and a field of view.
class Flight {
  constructor(camera, controls) {
    Object.assign(this, { camera, controls, start: null });
  }

  to(viewpoint) {
    const { position, fov } = this.camera;
    this.from = { position: position.clone(), target: this.controls.target.clone(), fov };
    this.end = viewpoint;
    this.start = performance.now();
    this.time = isStill ? 0 : FLIGHT;
  }

  // Moves the camera; returns whether the flight goes on.
  step() {
    if (this.start === null) return false;
    const share = this.time ? Math.min(1, (performance.now() - this.start) / this.time) : 1;
    const eased = share * share * (3 - 2 * share);
    this.camera.position.lerpVectors(this.from.position, this.end.position, eased);
    this.controls.target.lerpVectors(this.from.target, this.end.target, eased);
    this.camera.fov = this.from.fov + eased * (this.end.fov - this.from.fov);
    this.camera.updateProjectionMatrix();
    if (share === 1) this.start = null;
    return this.start !== null;
  }
}

function start(renderer) {
  renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
  renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
  const world = new THREE.Scene(), camera = new THREE.PerspectiveCamera(HOME_FIELD);
  camera.up.fromArray(scene.up);
  camera.near = scene.size / 1000;
  camera.far = scene.size * 100;
  const controls = new THREE.OrbitControls(camera, canvas);
  controls.enableDamping = !isStill;
  controls.dampingFactor = 0.12;
  controls.zoomToCursor = true;
  controls.maxDistance = scene.size * 20;
  const flight = new Flight(camera, controls);
  const up = camera.up.clone(), centre = new THREE.Vector3().fromArray(scene.centre);
  const textures = scene.views.map(() => new THREE.Texture());
  const layers = scene.layers.map((layer) => ({
    points: makePoints(layer),
    spacing: layer.spacing,
    cameras: scene.views.map((_, view) => makeCamera(layer, view, textures[view])),
  }));
  let shown = 0, hovered = null, selected = null, waiting = false;

  function draw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      const flying = flight.step();
      controls.update(); // calls draw while it moves
      show();
      renderer.render(world, camera);
      if (flying) draw();
    });
  }

  // Sets what depends on the controls and on where the camera is.
  function show() {
    const pixels = renderer.getDrawingBufferSize(new THREE.Vector2()).y;
    const perUnit = pixels / (2 * Math.tan((camera.fov * Math.PI) / 360));
    layers.forEach((layer, number) => {
      const visible = number === shown, { uniforms } = layer.points.material;
      layer.points.visible = visible;
      uniforms.size.value = 2 ** element("size").value * POINT * layer.spacing * perUnit;
      uniforms.smallest.value = renderer.getPixelRatio();
      for (const each of layer.cameras) {
        const { view, colour } = each.userData, marked = view === hovered || view === selected;
        // From within a camera, its picture would hide the scene.
        const outside = each.position.distanceTo(camera.position) > 1.5 * scene.camera_depth;
        each.visible = visible && outside && element("cameras").checked;
        each.children[0].material.color.set(marked ? 0xffffff : colour);
      }
    });
  }

  // Returns the size of the canvas, and of its part that is free of panels, at the top left.
  function frame() {
    const { clientWidth: width, clientHeight: height } = canvas;
    const { left } = element("views").getBoundingClientRect(), isBeside = left > width / 2;
    const controls = element("controls").getBoundingClientRect();
    const free = isBeside ? { width: left, height } : { width, height: Math.max(controls.top, height / 4) };
    return { width, height, free };
  }

  function home() {
    // Behind the first camera, to its right and above it, but not too far from the scene.
    const { free } = frame();
    const narrow = Math.min(1, Math.max(free.width / free.height, 0.4)); // less of its width is visible
    const distance = Math.max(Math.min(centre.length(), 1.5 * scene.size), 0.5 * scene.size) / narrow;
    const back = centre.lengthSq() ? centre.clone().normalize().negate() : new THREE.Vector3(0, 0, 1);
    const position = centre.clone().addScaledVector(back, 1.5 * distance);
    position.add(new THREE.Vector3(0.22 * distance, 0, 0)).addScaledVector(up, 0.3 * distance);
    return { position, target: centre.clone(), fov: HOME_FIELD };
  }

  function viewpointOf(number) {
    const pose = layers[shown].cameras[number], [x, y] = scene.layers[shown].tangents[number];
    const forward = new THREE.Vector3(0, 0, -1).applyQuaternion(pose.quaternion);
    const toCentre = centre.clone().sub(pose.position).dot(forward);
    const target = pose.position.clone().addScaledVector(forward, Math.max(toCentre, scene.size / 10));
    const { width, height, free } = frame();
    const tangent = Math.max((y * height) / free.height, (x * height) / free.width); // all of it is visible
    const fov = Math.min((360 / Math.PI) * Math.atan(tangent), 120);
    return { position: pose.position.clone(), target, fov };
  }

  function select(number) {
    selected = number;
    hint.className = "over";
    [...element("views").children].forEach((each, i) => each.setAttribute("aria-pressed", i === number));
    element("views").children[number]?.scrollIntoView({ block: "nearest", inline: "nearest" });
    flight.to(number === null ? home() : viewpointOf(number));
    draw();
  }

  function hover(number) {
    if (number === hovered) return;
    hovered = number;
    canvas.classList.toggle("over-camera", number !== null);
    draw();
  }

  // Returns the camera under a pointer, or null.
  function cameraAt(event) {
    const box = canvas.getBoundingClientRect(), ray = new THREE.Raycaster();
    const x = (2 * (event.clientX - box.left)) / box.width - 1;
    const y = 1 - (2 * (event.clientY - box.top)) / box.height;
    ray.setFromCamera(new THREE.Vector2(x, y), camera);
    const pictures = layers[shown].cameras.filter((each) => each.visible).map((each) => each.children[1]);
    return ray.intersectObjects(pictures)[0]?.object.parent.userData.view ?? null;
  }

  function resize() {
    const { width, height, free } = frame();
    if (!width || !height) return; // in a tab that is not shown
    renderer.setSize(width, height, false);
    camera.aspect = width / height;
    camera.setViewOffset(width, height, (width - free.width) / 2, (height - free.height) / 2, width, height);
    if (selected !== null) flight.to(viewpointOf(selected));
    draw();
  }

  function showCounts() {
    const { count } = layers[shown].points.geometry.attributes.position;
    element("counts").textContent = `${scene.views.length} views, ${count.toLocaleString("en")} points`;
  }

  scene.views.forEach((view, number) => {
    const button = document.createElement("button"), picture = new Image(), name = document.createElement("span");
    picture.onload = () => {
      textures[number].image = picture;
      textures[number].needsUpdate = true;
      draw();
    };
    picture.src = view.picture;
    picture.alt = "";
    name.textContent = `${number + 1} · ${view.name}`;
    button.type = "button";
    button.title = `Look from ${view.name}`;
    button.style.setProperty("--camera", `rgb(${view.colour})`);
    button.append(picture.cloneNode(), name); // three.js would take the size on the page for the texture's
    button.onclick = () => select(number);
    button.onpointerenter = () => hover(number);
    button.onpointerleave = () => hover(null);
    element("views").append(button);
  });
  if (scene.layers.length > 1) {
    scene.layers.forEach((layer, number) => {
      const label = document.createElement("label"), input = document.createElement("input");
      Object.assign(input, { type: "radio", name: "layer", checked: number === 0 });
      input.onchange = () => { shown = number; showCounts(); draw(); };
      label.append(input, layer.name);
      element("layers").append(label);
    });
  }
  for (const { points, cameras } of layers) world.add(points, ...cameras);

  element("size").oninput = element("cameras").onchange = draw;
  element("reset").onclick = () => select(null);
  element("controls").onsubmit = (event) => event.preventDefault();
  controls.addEventListener("change", draw);
  controls.addEventListener("start", () => { flight.start = null; hint.className = "over"; });
  let pressed = null;
  canvas.addEventListener("pointerdown", (event) => { pressed = [event.clientX, event.clientY]; });
  canvas.addEventListener("pointermove", (event) => { if (!event.buttons) hover(cameraAt(event)); });
  canvas.addEventListener("pointerup", (event) => {
    if (!pressed || Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) > CLICK) return;
    const number = cameraAt(event);
    if (number !== null) select(number);
  });
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typed = event.target.matches("input[type=range], input[type=radio]");
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], count = scene.views.length;
    if (event.key === "r" || event.key === "Home") select(null);
    else if (event.key === "c") element("cameras").click();
    else if (event.key === "+") element("size").stepUp(5), draw();
    else if (event.key === "-") element("size").stepDown(5), draw();
    else if (step && !typed) select(selected === null ? (step > 0 ? 0 : count - 1) : (selected + step + count) % count);
  });
  new ResizeObserver(resize).observe(canvas);

  showCounts();
  const touch = matchMedia("(pointer: coarse)").matches;
  hint.textContent = touch
    ? "One finger turns, two move and zoom. Tap a view to look from its camera."
    : "Drag to turn, right-drag to move, scroll to zoom. Click a camera to look from it. Keys: R, C, +, -, arrows.";
  const { position, target } = home();
  camera.position.copy(position);
  controls.target.copy(target);
  resize();
}

try {
  start(new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true }));
} catch (error) {
  hint.className = "error";
  hint.textContent = `The scene cannot be shown: ${error.message} This page needs WebGL.`;
  throw error;
}
