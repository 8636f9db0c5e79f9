// The parts of three.js that scene.js uses; README.md says how they become three.min.js.
export {
  BufferAttribute, BufferGeometry, Color, ColorManagement, DoubleSide, Group, LinearSRGBColorSpace, LineBasicMaterial,
  LineSegments, Matrix4, Mesh, MeshBasicMaterial, PerspectiveCamera, Points, Raycaster, Scene, ShaderMaterial, Texture,
  Vector2, Vector3, WebGLRenderer,
} from "three";
export { OrbitControls } from "three/addons/controls/OrbitControls.js";
