// Command image writes an image of one static program: `image -o FILE -n NAME:TAG [-user UID:GID] PROGRAM`.
//
// FILE is an archive of an OCI image layout with one uncompressed layer; the program lies at its root and is what the
// image runs. The same input gives the same bytes.
package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// object is JSON, written with sorted keys.
type object = map[string]any

const (
	layerType    = "application/vnd.oci.image.layer.v1.tar"
	configType   = "application/vnd.oci.image.config.v1+json"
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
)

func main() {
	out := flag.String("o", "", "the archive")
	name := flag.String("n", "", "the image's full name, with its tag")
	user := flag.String("user", "0:0", "who runs the program")
	flag.Parse()
	if *out == "" || *name == "" || flag.NArg() != 1 {
		fmt.Fprintln(os.Stderr, "usage: image -o FILE -n NAME:TAG [-user UID:GID] PROGRAM")
		os.Exit(2)
	}
	if err := write(*out, *name, *user, flag.Arg(0)); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func write(out, name, user, program string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	base := filepath.Base(program)
	var layer archive
	layer.dir("tmp/", 0o1777)
	layer.dir("etc/", 0o755)
	layer.file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n"))
	layer.file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	layer.file(base, 0o755, content)

	var image archive
	image.dir("blobs/", 0o755)
	image.dir("blobs/sha256/", 0o755)
	layerBlob := image.blob(layerType, layer.close())
	platform := object{"os": "linux", "architecture": runtime.GOARCH}
	config := image.json(configType, object{
		"os": "linux", "architecture": runtime.GOARCH,
		"config": object{"User": user, "Entrypoint": []string{"/" + base}, "WorkingDir": "/"},
		"rootfs": object{"type": "layers", "diff_ids": []any{layerBlob["digest"]}},
	})
	manifest := image.json(manifestType, object{
		"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []any{layerBlob},
	})
	manifest["platform"] = platform
	manifest["annotations"] = object{"io.containerd.image.name": name}
	image.file("oci-layout", 0o644, encode(object{"imageLayoutVersion": "1.0.0"}))
	image.file("index.json", 0o644, encode(object{"schemaVersion": 2, "mediaType": indexType, "manifests": []any{manifest}}))
	if image.failed != nil {
		return image.failed
	}
	return os.WriteFile(out, image.close(), 0o644)
}

// archive is a tar in memory. Writing there fails only for names that tar cannot hold; the first failure is kept.
type archive struct {
	buffer bytes.Buffer
	writer *tar.Writer
	failed error
}

func (a *archive) put(header *tar.Header, content []byte) {
	if a.writer == nil {
		a.writer = tar.NewWriter(&a.buffer)
	}
	if err := a.writer.WriteHeader(header); err != nil && a.failed == nil {
		a.failed = err
		return
	}
	if _, err := a.writer.Write(content); err != nil && a.failed == nil {
		a.failed = err
	}
}

func (a *archive) dir(name string, mode int64) {
	a.put(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}, nil)
}

func (a *archive) file(name string, mode int64, content []byte) {
	a.put(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, content)
}

// blob adds content under its digest and returns its descriptor.
func (a *archive) blob(mediaType string, content []byte) object {
	digest := fmt.Sprintf("%x", sha256.Sum256(content))
	a.file("blobs/sha256/"+digest, 0o644, content)
	return object{"mediaType": mediaType, "digest": "sha256:" + digest, "size": len(content)}
}

func (a *archive) json(mediaType string, content object) object {
	return a.blob(mediaType, encode(content))
}

func (a *archive) close() []byte {
	if err := a.writer.Close(); err != nil && a.failed == nil {
		a.failed = err
	}
	return a.buffer.Bytes()
}

func encode(content object) []byte {
	text, err := json.Marshal(content)
	if err != nil {
		panic(err) // maps, slices, texts and numbers can always be written
	}
	return text
}
