package cleanup_test

import (
	"errors"
	"reflect"
	"testing"

	"github.com/microsandbox-go/microsandbox/internal/cleanup"
)

func TestCleanUndoesLastFirstAndOnce(t *testing.T) {
	var got []int
	undo := cleanup.Make()
	undo.AddFunc(func() { got = append(got, 1) })
	undo.Add(func() error { got = append(got, 2); return errors.New("stuck") })
	undo.AddFunc(func() { got = append(got, 3) })
	var failed []error
	undo.Failed = func(err error) { failed = append(failed, err) }
	undo.Clean()
	undo.Clean()
	if want := []int{3, 2, 1}; !reflect.DeepEqual(got, want) {
		t.Errorf("undone %v, want %v", got, want)
	}
	if len(failed) != 1 || failed[0].Error() != "stuck" {
		t.Errorf("failures reported: %v, want one: stuck", failed)
	}
}

func TestReleaseKeepsWhatWasTaken(t *testing.T) {
	undone := 0
	owner := func() *cleanup.Stack {
		undo := cleanup.Make()
		defer undo.Clean()
		undo.AddFunc(func() { undone++ })
		return undo.Release()
	}()
	if undone != 0 {
		t.Fatal("a released step was undone")
	}
	owner.Clean()
	owner.Clean()
	if undone != 1 {
		t.Errorf("the owner undid the step %d times, want once", undone)
	}
}

func TestCleanGoesOnAfterAPanic(t *testing.T) {
	undone := 0
	undo := cleanup.Make()
	undo.AddFunc(func() { undone++ })
	undo.AddFunc(func() { panic("boom") })
	func() {
		defer func() { _ = recover() }()
		undo.Clean()
	}()
	undo.Clean()
	if undone != 1 {
		t.Errorf("the step below the panic was undone %d times, want once", undone)
	}
}
